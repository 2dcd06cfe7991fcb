"""What vlaprune-doctor looks at."""
