"""The paper's tables in miniature: what is trained and asked for them, and what comes out."""
