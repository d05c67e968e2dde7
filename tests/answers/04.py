# %% 1 right: sums by name
class PostNormBlock(Block):
    def forward(self, x, context=None, need_weights=False):
        mixed, maps = self.attn(x, context, need_weights=need_weights)
        first = self.norm1(self.skip(mixed) + x)
        return self.norm2(first + self.skip(self.mlp(first))), maps


# %% 1 right: norms in single steps
class PostNormBlock(Block):
    def normed(self, norm, t):
        t = (t - t.mean(-1, keepdim=True)) / (
            t.var(-1, unbiased=False, keepdim=True) + norm.eps
        ).sqrt()
        return t * norm.weight + norm.bias

    def forward(self, x, need_weights=False):
        attended, weights = self.attn(x, need_weights=True)
        x = self.normed(self.norm1, x + self.skip(attended))
        return [self.normed(self.norm2, x + self.skip(self.mlp(x))), weights]


# %% 1 wrong: pre-norm
class PostNormBlock(Block):
    pass


# %% 1 wrong: the norm before the addition
class PostNormBlock(Block):
    def forward(self, x, need_weights=False):
        attended, weights = self.attn(x, need_weights=need_weights)
        x = x + self.norm1(attended)
        return x + self.norm2(self.mlp(x)), weights


# %% 1 wrong: one norm twice
class PostNormBlock(Block):
    def forward(self, x, need_weights=False):
        attended, weights = self.attn(x, need_weights=need_weights)
        x = self.norm1(x + attended)
        return self.norm1(x + self.mlp(x)), weights


# %% 1 wrong: tokens alone
class PostNormBlock(Block):
    def forward(self, x, need_weights=False):
        x = self.norm1(x + self.attn(x)[0])
        return self.norm2(x + self.mlp(x))


# %% 1 wrong: nothing is skipped
class PostNormBlock(Block):
    def forward(self, x, need_weights=False):
        attended, weights = self.attn(x, need_weights=need_weights)
        x = self.norm1(x + attended)
        return self.norm2(x + self.mlp(x)), weights


# %% 1 wrong: hard-coded
class PostNormBlock(Block):
    def forward(self, x, need_weights=False):
        return torch.zeros(2, 10, 64), torch.full((2, 4, 10, 10), 0.1)


# %% 2 right: queries as keys, tripled
def apart(attn):
    D = attn.proj.in_features
    attn.qkv.weight[D : 2 * D] = attn.qkv.weight[:D]
    attn.qkv.weight[: 2 * D] *= 3


# %% 2 right: orthogonal queries as keys, large
def apart(attn):
    q, k, v = attn.qkv.weight.chunk(3)
    k.copy_(nn.init.orthogonal_(q, gain=4))
    v.copy_(torch.eye(64))
    nn.init.orthogonal_(attn.proj.weight)


# %% 2 wrong: nothing changed
def apart(attn):
    return attn


# %% 2 wrong: sharper, but for other tokens
def apart(attn):
    attn.qkv.weight[:128] *= 10


# %% 2 wrong: an even average
def apart(attn):
    attn.qkv.weight[:128] = 0


# %% 2 wrong: identities that are too small
def apart(attn):
    eye = torch.eye(64)
    attn.qkv.weight.copy_(torch.cat([eye, eye, eye]))
    attn.proj.weight.copy_(eye)


# %% 2 wrong: another forward
def apart(attn):
    attn.forward = lambda x: (x, None)


# %% 2 wrong: hard-coded
def apart(attn):
    return 0.6


# %% 3 right: a tenth of the weights
def prepare(model):
    for block in model.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            layer.weight *= 0.1


# %% 3 right: small normal numbers
def prepare(model):
    for name, weight in model.named_parameters():
        if name.endswith(("attn.proj.weight", "mlp.fc2.weight")):
            nn.init.normal_(weight, std=0.01)


# %% 3 wrong: nothing changed
def prepare(model):
    return model


# %% 3 wrong: the MLPs alone
def prepare(model):
    for block in model.blocks:
        block.mlp.fc2.weight.zero_()


# %% 3 wrong: all weights smaller
def prepare(model):
    for parameter in model.parameters():
        parameter.data.mul_(0.1)


# %% 3 wrong: the default weights of all layers
def prepare(model):
    for block in model.blocks:
        for layer in (block.attn.qkv, block.attn.proj, *block.mlp.children()):
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()


# %% 3 wrong: another wiring
def prepare(model):
    model.wiring = "pre-norm"


# %% 3 wrong: another wiring and slightly smaller weights
def prepare(model):
    model.wiring = "pre-norm"
    for block in model.blocks:
        block.attn.proj.weight.mul_(0.99)


# %% 3 wrong: hard-coded
def prepare(model):
    return 0.95


# %% 3 wrong: parameters of its own
def prepare(model):
    for block in model.blocks:
        block.mlp.fc2 = nn.Sequential(block.mlp.fc2, nn.LayerNorm(32))


# %% 4 right: by powers
def at_scaled(gradient, a, eps):
    return gradient(eps * a**-2.0) * a**-1.0


# %% 4 right: row by row
def at_scaled(gradient, a, eps):
    return torch.stack([row / a for row in gradient(eps=eps / a / a)])


# %% 4 wrong: the epsilon stays
def at_scaled(gradient, a, eps):
    return gradient(eps) / a


# %% 4 wrong: the epsilon as the deviation
def at_scaled(gradient, a, eps):
    return gradient(eps / a) / a


# %% 4 wrong: larger tokens, larger gradient
def at_scaled(gradient, a, eps):
    return a * gradient(eps / a**2)


# %% 4 wrong: a number
def at_scaled(gradient, a, eps):
    return 1 / a


# %% 4 wrong: hard-coded
def at_scaled(gradient, a, eps):
    return gradient(0.0) / 10
