"""How a step draws its two noise levels t > r."""
