"""The peers, as the rows use them."""
