// "Find a setting": what is typed is looked for in names, help and A1111's names; a choice opens its folds and marks it.
(() => {
  'use strict'
  const MOST = 8, SHOWN_MS = 2500, DRAWN_MS = 2000
  const listOf = (box) => box.parentElement.querySelector('ul')

  function matches(box) {
    const words = box.value.trim().toLowerCase().split(/\s+/).filter(Boolean)
    if (!words.length) return []
    const all = JSON.parse(box.parentElement.dataset.index)
    const found = all.filter(([, label, more]) => words.every((word) => `${label} ${more}`.toLowerCase().includes(word)))
    const rank = ([, label]) => (label.toLowerCase().startsWith(words[0]) ? 0 : label.toLowerCase().includes(words[0]) ? 1 : 2)
    return found.sort((a, b) => rank(a) - rank(b)).slice(0, MOST)
  }

  function list(box) {
    const place = listOf(box), found = matches(box), asked = box.value.trim()
    place.replaceChildren(...found.map((entry, number) => {
      const item = document.createElement('li'), fold = entry[3].at(-1), header = fold && document.querySelector(`#${fold} > button`)
      item.setAttribute('role', 'option')
      item.id = `${place.id}_${number}`
      item.entry = entry
      item.append(entry[1])
      if (header) item.append(Object.assign(document.createElement('small'), { textContent: header.textContent.replace('▼', '').trim() }))
      return item
    }))
    if (asked && !found.length) place.append(Object.assign(document.createElement('li'), { className: 'rp-none', textContent: 'Nothing is called so.' }))
    place.hidden = !asked
    box.setAttribute('aria-expanded', String(!place.hidden))
    choose(box, found.length ? 0 : -1)
  }

  function choose(box, number) {
    const items = [...listOf(box).querySelectorAll('[role=option]')]
    items.forEach((item, n) => item.setAttribute('aria-selected', String(n === number)))
    if (items[number]) box.setAttribute('aria-activedescendant', items[number].id)
    else box.removeAttribute('aria-activedescendant')
  }

  const chosen = (box) => [...listOf(box).querySelectorAll('[role=option]')].findIndex((item) => item.getAttribute('aria-selected') === 'true')

  function close(box) {
    listOf(box).hidden = true
    box.setAttribute('aria-expanded', 'false')
  }

  // Open the folds around a setting, show it, and put the cursor there.
  async function reveal([place, , , folds]) {
    for (const fold of folds) {
      const header = await window.reprise.until(() => document.querySelector(`#${fold} > button`), DRAWN_MS)
      if (header && !header.classList.contains('open')) header.click()
    }
    const home = await window.reprise.until(() => document.getElementById(place), DRAWN_MS)
    if (!home) return
    home.scrollIntoView({ block: 'center' })
    home.classList.add('rp-marked')
    setTimeout(() => home.classList.remove('rp-marked'), SHOWN_MS)
    home.querySelector('input[type=number], input:not([type=range]), textarea, input, button')?.focus({ preventScroll: true })
  }

  function take(box, item) {
    if (!item?.entry) return
    close(box)
    box.value = ''
    reveal(item.entry)
  }

  const isFind = (target) => target.matches?.('.rp-find input')
  document.addEventListener('input', (event) => isFind(event.target) && list(event.target))
  document.addEventListener('focusout', (event) => isFind(event.target) && setTimeout(() => close(event.target), 150))
  document.addEventListener('mousedown', (event) => {
    const item = event.target.closest?.('.rp-find li')
    if (item) { event.preventDefault(); take(item.closest('.rp-find').querySelector('input'), item) }
  })
  document.addEventListener('keydown', (event) => {
    const box = event.target
    if (!isFind(box)) return
    const items = [...listOf(box).querySelectorAll('[role=option]')], now = chosen(box)
    if (event.key === 'ArrowDown') choose(box, Math.min(now + 1, items.length - 1))
    else if (event.key === 'ArrowUp') choose(box, Math.max(now - 1, 0))
    else if (event.key === 'Enter') take(box, items[now])
    else if (event.key === 'Escape' && !listOf(box).hidden) close(box)
    else return
    event.preventDefault()
    event.stopPropagation()
  }, true)
})()
