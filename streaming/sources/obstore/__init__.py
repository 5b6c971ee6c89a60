"""The parts of obstore that several backends share: reader, listings, errors and process lifetime."""
