"""Requests and answers as the guard sees them: call, answer, problem, cookies, headers, body. No policy, no store."""
