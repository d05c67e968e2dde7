# %% 1 right: sums by name
class PostNormBlock(Block):
    def forward(self, x, context=None, need_weights=False):
        mixed, maps = self.attn(x, context, need_weights=need_weights)
        first = self.norm1(mixed + x)
        return self.norm2(first + self.mlp(first)), maps


# %% 1 right: norms in single steps
class PostNormBlock(Block):
    def normed(self, norm, t):
        t = (t - t.mean(-1, keepdim=True)) / (
            t.var(-1, unbiased=False, keepdim=True) + norm.eps
        ).sqrt()
        return t * norm.weight + norm.bias

    def forward(self, x, need_weights=False):
        attended, weights = self.attn(x, need_weights=True)
        x = self.normed(self.norm1, x + attended)
        return [self.normed(self.norm2, x + self.mlp(x)), weights]


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


# %% 1 wrong: hard-coded
class PostNormBlock(Block):
    def forward(self, x, need_weights=False):
        return torch.zeros(2, 10, 64), torch.full((2, 4, 10, 10), 0.1)


# %% 2 right: counted on the block
def count_parameters(embed_dim, mlp_dim):
    block = Block(embed_dim=embed_dim, num_heads=1, mlp_dim=mlp_dim)
    return sum(p.numel() for p in block.parameters())


# %% 2 right: a float
def count_parameters(embed_dim, mlp_dim):
    linear = [(embed_dim, 3 * embed_dim), (embed_dim, embed_dim)]
    linear += [(embed_dim, mlp_dim), (mlp_dim, embed_dim)]
    return sum((n + 1) * m for n, m in linear) + 4.0 * embed_dim


# %% 2 wrong: without the norms
def count_parameters(embed_dim, mlp_dim):
    return 4 * embed_dim**2 + 5 * embed_dim + 2 * embed_dim * mlp_dim + mlp_dim


# %% 2 wrong: the MLP always four times as wide
def count_parameters(embed_dim, mlp_dim):
    return 12 * embed_dim**2 + 13 * embed_dim


# %% 2 wrong: hard-coded
def count_parameters(embed_dim, mlp_dim):
    return 7087872


# %% 3 right: a tenth of the weights
def start(model):
    for block in model.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            layer.weight *= 0.1


# %% 3 right: small normal numbers
def start(model):
    for name, weight in model.named_parameters():
        if name.endswith(("attn.proj.weight", "mlp.fc2.weight")):
            nn.init.normal_(weight, std=0.01)


# %% 3 right: divided by the root of the number of sublayers
def start(model):
    for block in model.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            layer.weight.mul_((2 * len(model.blocks)) ** -0.5)


# %% 3 wrong: nothing changed
def start(model):
    return model


# %% 3 wrong: all weights smaller
def start(model):
    for parameter in model.parameters():
        parameter.data.mul_(0.1)


# %% 3 wrong: the default weights of all layers
def start(model):
    for block in model.blocks:
        for layer in (block.attn.qkv, block.attn.proj, *block.mlp.children()):
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()


# %% 3 wrong: another wiring
def start(model):
    model.wiring = "pre-norm"


# %% 3 wrong: another wiring and slightly smaller weights
def start(model):
    model.wiring = "pre-norm"
    for block in model.blocks:
        block.attn.proj.weight.mul_(0.99)


# %% 3 wrong: hard-coded
def start(model):
    return 0.95
