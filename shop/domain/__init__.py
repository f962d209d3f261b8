"""The rules of the shop: accounts, orders and their events, the tables, and the login rate limit."""
