"""Care for what is stored: what is there, whether it proves, and what is to be done: pure plans, thin drivers."""
