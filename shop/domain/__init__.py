"""What the shop promises: accounts, orders, their tables, and the login rate limit."""
