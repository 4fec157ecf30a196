"""The JSON on the wire, in and out. A field that is not named here is ignored, so providers may add theirs."""
