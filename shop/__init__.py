"""An orders API: register, log in, place an order, follow it."""

__version__ = "0.1.0"
