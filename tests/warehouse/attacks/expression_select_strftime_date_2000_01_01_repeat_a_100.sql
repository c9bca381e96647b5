-- stopped
SELECT strftime(date '2000-01-01', repeat('%A', 100000000))
