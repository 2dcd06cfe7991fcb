"""Speed, memory and FLOPs of methods on fixed inputs, without a simulator."""
