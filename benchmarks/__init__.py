"""What i2v costs: each module measures one question. README.md has the results."""
