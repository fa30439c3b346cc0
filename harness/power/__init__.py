"""How much the judge catches: a catalogue of seeded faults, scored beside the rules of other projects."""
