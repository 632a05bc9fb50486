"""The command line of semaug: thin verbs over the packages; the only room that talks to the terminal."""
