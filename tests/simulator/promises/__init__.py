"""The promises as checks: at each submit (`watch`) and at the end (`at_rest`); `reading` knows the formats."""
