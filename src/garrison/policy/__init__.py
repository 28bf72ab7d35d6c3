"""What each route demands, as data: rules, decorators, table, path and route matching, the second lock."""
