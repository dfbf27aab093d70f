"""Tools that every other room may use; they use none of them."""
