"""Networks from parts: adapters, blocks, heads and subnets, with the formats between them converted."""
