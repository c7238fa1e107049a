"""Figures of results: their numbers, and how matplotlib and plotly draw them."""
