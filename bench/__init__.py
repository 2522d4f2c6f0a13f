"""Measure the product from outside, beside what it is compared with."""
