"""What several networks are made of: projections and norms, attention, its mask and cache, experts, scanned layers."""
