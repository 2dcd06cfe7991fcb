"""What a policy call costs: multiply-adds from shapes, and milliseconds by stage."""
