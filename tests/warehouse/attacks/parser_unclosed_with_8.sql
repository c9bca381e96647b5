-- stopped
with a as (with a as (with a as (with a as (with a as (with a as (with a as (with a as (
