"""Training data from packages: records of drawings, and the pictures, scenes and triplets made of them."""
