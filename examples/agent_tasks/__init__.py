"""What the example conversations are made of: small worlds, tools that really run, and tasks that use them."""
