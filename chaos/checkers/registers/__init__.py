"""Judge registers: is there one order of all operations that explains what each key answered?"""
