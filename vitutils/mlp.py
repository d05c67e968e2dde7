"""The multilayer perceptron of a Transformer block."""

from torch import Tensor, nn


class MLP(nn.Module):
    """Work on each token alone: widen it, bend it by GELU, narrow it.

    Args:
        embed_dim: width D of a token.
        mlp_dim: width of the hidden layer, 4 * D in the paper.
        dropout: probability of dropping a feature after each linear layer.

    Source: Dosovitskiy et al. (2021), section 3.1, equation 3.
    """

    def __init__(self, *, embed_dim: int, mlp_dim: int, dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, mlp_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(mlp_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return new tokens (..., D) for tokens (..., D)."""
        x = self.dropout(self.act(self.fc1(x)))  # (..., mlp_dim)
        return self.dropout(self.fc2(x))  # (..., D)
