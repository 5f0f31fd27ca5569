"""The tabs of the page, one file each: `build(context, page)` adds a tab's components and listeners."""
