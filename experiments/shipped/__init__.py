"""The models that come with the package: stored with their cards, and measured."""
