"""CodeFormer++ on the embedded model: where the method helps, where it does not, and why."""
