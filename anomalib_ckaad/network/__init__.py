"""What is trained and what is frozen: backbone, auto-encoder, discriminator, and the objective that joins them."""
