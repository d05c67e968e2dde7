"""The parts of *Vision Transformers, Piece by Piece*, one module a piece."""
