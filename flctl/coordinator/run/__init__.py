"""One run: who takes part, its rounds, its model after each of them."""
