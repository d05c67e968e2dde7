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


# %% 3 right: new names
class MendedBlock(Block):
    def forward(self, x, need_weights=False):
        attended, weights = self.attn(self.norm1(x), need_weights=need_weights)
        middle = x + attended
        return middle + self.mlp(self.norm2(middle)), weights


# %% 3 right: the block as it was
class MendedBlock(Block):
    pass


# %% 3 wrong: the norms swapped
class MendedBlock(Block):
    def forward(self, x, need_weights=False):
        attended, weights = self.attn(self.norm2(x), need_weights=need_weights)
        x = x + attended
        return x + self.mlp(self.norm1(x)), weights


# %% 3 wrong: norm1 twice
class MendedBlock(Block):
    def forward(self, x, need_weights=False):
        attended, weights = self.attn(self.norm1(x), need_weights=need_weights)
        x = x + attended
        return x + self.mlp(self.norm1(x)), weights


# %% 3 wrong: mended in the first half alone
class MendedBlock(Block):
    def forward(self, x, need_weights=False):
        attended, weights = self.attn(self.norm1(x), need_weights=need_weights)
        x = self.norm2(x + attended)
        return x + self.mlp(x), weights


# %% 3 wrong: hard-coded
class MendedBlock(Block):
    def forward(self, x, need_weights=False):
        return 1.07 * x, None


# %% 4 right: a higher rate, weights scaled down
def smaller(module):
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5 / 3**0.5)
        nn.init.zeros_(module.bias)


deep, _ = train("post-norm", depth=6, lr=2e-3, steps=130, seed=1, init=smaller)

# %% 4 right: a loop of one's own
torch.manual_seed(0)
deep = Counter("post-norm", 6, nn.Identity())
optimizer = torch.optim.Adam(deep.parameters(), lr=1e-3, fused=True)
for _ in range(130):
    sequences, counts = sample(64)
    optimizer.zero_grad()
    F.cross_entropy(deep(sequences).mT, counts).backward()
    optimizer.step()

# %% 4 wrong: a high rate from the first step on
deep, _ = train("post-norm", depth=6, lr=1e-2, steps=15)

# %% 4 wrong: pre-norm
deep, _ = train("pre-norm", depth=6, lr=1e-3, steps=2)

# %% 4 wrong: four blocks
deep, _ = train("post-norm", depth=4, lr=1e-3, steps=2)

# %% 4 wrong: hard-coded
deep = 0.95
