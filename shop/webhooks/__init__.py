"""Webhooks: the requests that tell other systems of order events, and the process that sends them."""
