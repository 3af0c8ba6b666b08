"""`nlsr serve`: the HTTP API and the page, on the user's own machine. Needs the extra `serve`."""
