"""The Contributions page: how many features make up the true class's logit."""
