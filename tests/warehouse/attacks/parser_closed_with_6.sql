-- wrong: SQL
with a as (with a as (with a as (with a as (with a as (with a as (select 1) select 1) select 1) select 1) select 1) select 1) select 1x y z
