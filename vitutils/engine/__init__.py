"""What long runs and other people's files need beyond the taught pieces."""
