"""RIDFR at small scale: an own latent prior, the content module on it, and three ways to fine-tune it."""
