"""Reports for people: self-contained pages (`page.py`) and the few pictures in them (`charts.py`)."""
