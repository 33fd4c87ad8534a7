// A shape of the same area, and the shape that is kept while one side is changed. webui/components/sizes.py has the buttons.
(() => {
  'use strict'
  const LEAST = 64, MOST = 2048, GRID = 8
  const kept = {}

  const onGrid = (side) => Math.min(Math.max(Math.round(side / GRID) * GRID, LEAST), MOST)

  window.reprise = {
    ...window.reprise,
    shaped(tab, shape, width, height) {
      const [across, down] = shape.split(':').map(Number)
      if (tab in kept) kept[tab] = across / down
      return [onGrid(Math.sqrt(width * height * across / down)), onGrid(Math.sqrt(width * height * down / across))]
    },
    keepShape(tab, width, height, on) {
      if (on) kept[tab] = width / height
      else delete kept[tab]
    },
    // The other side, after one was changed by hand.
    follow(tab, other, width, height) {
      const isWidth = other === `${tab}_width`
      if (!(tab in kept)) return isWidth ? width : height
      return onGrid(isWidth ? height * kept[tab] : width / kept[tab])
    },
  }
})()
