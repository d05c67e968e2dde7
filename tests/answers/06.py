# %% 1 right: patch by patch
def glue(patches, shape, P):
    C, H, W = shape
    image, rest = torch.empty(shape), iter(patches)
    for top in range(0, H, P):
        for left in range(0, W, P):
            image[:, top : top + P, left : left + P] = next(rest).view(C, P, P)
    return image


# %% 1 right: by transposes and named sizes
def glue(patches, shape, P):
    C, H, W = shape
    split = patches.view(H // P, W // P, C, P, P)
    return split.transpose(1, 2).transpose(0, 1).transpose(2, 3).reshape(C, H, W)


# %% 1 wrong: a reshape alone
def glue(patches, shape, P):
    return patches.reshape(shape)


# %% 1 wrong: the axes of a patch exchanged
def glue(patches, shape, P):
    C, H, W = shape
    split = patches.reshape(H // P, W // P, C, P, P)
    return split.permute(2, 0, 4, 1, 3).reshape(C, H, W)


# %% 1 wrong: hard-coded
def glue(patches, shape, P):
    return photo


# %% 2 right: feature by feature
def resize_positions(pos_embed, old, new):
    grid = pos_embed[0, 1:].unflatten(0, old).movedim(-1, 0)
    options = dict(size=new, mode="bilinear", align_corners=True)
    maps = [F.interpolate(one[None, None], **options)[0, 0] for one in grid]
    rest = torch.stack(maps, dim=-1).flatten(0, 1)
    return torch.cat((pos_embed[0, :1], rest))[None]


# %% 2 right: with permute
def resize_positions(pos_embed, old, new):
    grid = pos_embed[:, 1:].reshape(1, *old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, new, mode="bilinear", align_corners=True)
    rest = grid.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([pos_embed[:, :1], rest], dim=1)


# %% 2 wrong: reshape without a transpose
def resize_positions(pos_embed, old, new):
    first, D = pos_embed[:, :1], pos_embed.shape[2]
    grid = pos_embed[:, 1:].reshape(1, D, *old)
    grid = F.interpolate(grid, size=new, mode="bilinear", align_corners=True)
    return torch.cat((first, grid.reshape(1, -1, D)), dim=1)


# %% 2 wrong: the class token forgotten
def resize_positions(pos_embed, old, new):
    grid = pos_embed[:, 1:].unflatten(1, old).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=new, mode="bilinear", align_corners=True)
    return grid.flatten(2).transpose(1, 2)


# %% 2 wrong: corners not aligned
def resize_positions(pos_embed, old, new):
    grid = pos_embed[:, 1:].unflatten(1, old).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=new, mode="bilinear")
    return torch.cat((pos_embed[:, :1], grid.flatten(2).transpose(1, 2)), 1)


# %% 2 wrong: hard-coded
def resize_positions(pos_embed, old, new):
    return torch.zeros(1, 36, 6)


# %% 3 right: the place's number in binary digits
def places(rows, columns, D):
    numbers = torch.arange(1 + rows * columns)
    digits = (numbers[:, None] >> torch.arange(D)) & 1
    return (2.0 * digits - 1)[None]


# %% 3 right: a seed of its own
def places(rows, columns, D):
    chance = torch.Generator().manual_seed(1)
    return torch.randn(1, 1 + rows * columns, D, generator=chance)


# %% 3 wrong: one place in each feature, while there are features
def places(rows, columns, D):
    return torch.eye(1 + rows * columns, D)[None]


# %% 3 wrong: the column, and a trace of the number
def places(rows, columns, D):
    found = torch.zeros(1, 1 + rows * columns, D)
    found[0, 1:, 0] = torch.arange(columns).repeat(rows) + 1.0
    found[0, :, 1] = 1e-5 * torch.arange(1 + rows * columns)
    return found


# %% 3 wrong: all the same
def places(rows, columns, D):
    return torch.ones(1, 1 + rows * columns, D)


# %% 3 wrong: the row alone
def places(rows, columns, D):
    row = torch.arange(rows).repeat_interleave(columns) + 1.0
    row = torch.cat((torch.zeros(1), row))
    return row[None, :, None].expand(1, 1 + rows * columns, D)


# %% 3 wrong: the place's number in all features
def places(rows, columns, D):
    numbers = torch.arange(1.0 + rows * columns)
    return numbers[None, :, None].expand(1, 1 + rows * columns, D)


# %% 3 wrong: by chance
def places(rows, columns, D):
    return torch.randn(1, 1 + rows * columns, D)


# %% 3 wrong: hard-coded
def places(rows, columns, D):
    return 0.97
