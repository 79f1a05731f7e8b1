"""What other programs import of momoseek: ``momoseek.client``."""
