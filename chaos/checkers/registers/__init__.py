"""Judge registers, by looking for one order of operations that explains what each key answered."""
