"""Tables of the papers beside what can be measured here."""
