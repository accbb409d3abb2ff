"""What a person uses: bring the deployment up, submit jobs, watch them, read their results.

Everything here runs on the host with the standard library alone, except `admin`, which runs in the admin container.
"""
