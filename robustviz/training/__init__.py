"""How a network is trained and judged: its settings, the loop, evaluations and their doctor."""
