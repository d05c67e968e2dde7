"""The studies behind the recorded numbers."""
