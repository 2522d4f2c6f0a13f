"""The words that every part of Acordo shares: model, errors and ports. Imports nothing else of the
project.
"""
