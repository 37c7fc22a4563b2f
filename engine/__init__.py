"""The product.  Every process imports this first, before any library."""

from .isolation import isolate

isolate()
