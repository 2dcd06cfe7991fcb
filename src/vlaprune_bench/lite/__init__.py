"""The lite assets: LIBERO's scenes and objects made from primitives, drawn and packed by code."""
